"""`platen.yaml`: what a project is."""

FILE_NAME = "platen.yaml"
