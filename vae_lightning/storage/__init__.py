"""Files of a run: the run folder, atomic writes, the lock. Imports no heavy packages."""
