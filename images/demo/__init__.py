"""A page for any scorer, made from the scorer's own description and talking to it over HTTP."""
