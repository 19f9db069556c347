"""What comes out of a task: the report folder, its figures, and the offline check of both."""
