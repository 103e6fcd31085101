"""One module a format, each with `read(file)`: a source file in, documents and what is no document out."""
