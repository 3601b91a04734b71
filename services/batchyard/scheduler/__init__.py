"""Who runs next, and on which agent. Decides in a pure core, stores nothing."""
