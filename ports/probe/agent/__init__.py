"""The parts of the agent: what a tunnel needs on the host, for as long as it is open."""
