"""The command line, one command a file; `run_search.py` calls them."""
