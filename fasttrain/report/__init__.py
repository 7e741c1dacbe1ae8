"""What a person looks at afterwards: figures and an HTML page, drawn from the run directory."""
