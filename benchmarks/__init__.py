"""What the pipeline can do, measured on the real Kafka: `make bench`."""
