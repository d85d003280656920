"""The Docker backend; the only place that imports `docker`."""
