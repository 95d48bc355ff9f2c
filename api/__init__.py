"""The service: searches over REST, their database, the client and the command line."""
