//! End-to-end tests, the lab and benchmarks.
