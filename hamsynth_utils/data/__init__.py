"""Images, metadata and splits: HAM10000 as it is published, and the embedded phantom."""
