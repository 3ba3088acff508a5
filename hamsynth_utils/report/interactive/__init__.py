"""Pages of the report that run in the browser."""
