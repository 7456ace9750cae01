"""From YAML to batch: DatasetSpec -> Record -> Conversation -> TokenSample -> Batch. No torch: a data file is checked in a second."""
