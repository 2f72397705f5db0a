"""One small program for each server that is measured beside ours."""
