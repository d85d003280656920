"""What is sent into a cell: the agent and the standby interpreters. Never imported by the server."""
