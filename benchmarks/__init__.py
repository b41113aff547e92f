"""The cost of `ports` compared with its peers. scripts/bench runs it; docs/benchmarks.md has the figures."""
