"""The blocks that documents pass between reading and splitting, and what runs them, on one core or many."""
