"""The service itself: application, routes, database, and the thread that makes searches go on."""
