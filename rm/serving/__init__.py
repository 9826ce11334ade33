"""A rung outside its experiment: files of conversations scored, and a server."""
