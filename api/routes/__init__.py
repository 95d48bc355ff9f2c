"""Routes, a module a resource. They translate between HTTP and ``api.service``, and decide nothing."""
