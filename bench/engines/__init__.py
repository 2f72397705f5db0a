"""One small program for each way to score a file that is measured beside ours."""
