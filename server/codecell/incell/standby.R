# An R started before its program is known, with this as its R_TESTS, which R's own profile sources:
# it loads what the end of that start would load, says that it waits, and waits for one byte. Then R
# goes on, and reads the program from the file that it opened while it was empty.
local({
    unloadNamespace("utils") # which source() has loaded: its place is behind methods
    library.dynam.unload("utils", file.path(R.home("library"), "utils"))
    .OptRequireMethods()
    .First.sys()
    Sys.unsetenv("R_TESTS")
    folder <- tempdir()
    unlink(folder, recursive = TRUE) # or it is left behind where no program comes
    go <- file("/tmp/.standby.R.go", "rb", raw = TRUE)
    waiting <- file("/tmp/.standby.R.oops", "wb", raw = TRUE)
    writeBin(charToRaw("+"), waiting)
    close(waiting)
    if (!length(readBin(go, "raw", 1L))) quit(runLast = FALSE)
    close(go)
    dir.create(folder, mode = "0700")
})
