"""The documentation: pages, and in ``generators`` what makes the references and the pictures."""
