"""Routes, a module a resource. They translate between HTTP and ``api.server.service``, and decide nothing."""
