"""What `ports` costs beside its peers; run by scripts/bench, figures in docs/benchmarks.md."""
