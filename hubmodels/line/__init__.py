"""For production lines: sources of pictures, a log, the drift alarm, outputs, and a server."""
