"""Streaming real-time inference on Kafka: ingest, features, inference, drift detection and retraining."""
