"""What a person looks at afterwards: figures and one HTML page, drawn from the run directory alone."""
