"""Outside a container: find, build, run and test jobs. The one importer of docker."""
