"""Kills and disturbs a running pipeline by a seeded schedule, and audits what it committed with another client."""
