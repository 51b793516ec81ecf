"""What a report shows beyond its decision table: groups of patients, embeddings, forgetting, and
how well a rule chooses."""
