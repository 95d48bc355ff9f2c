"""What the command line is made of: a module for each group of commands."""
