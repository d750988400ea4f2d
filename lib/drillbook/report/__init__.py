"""What people look at: cards, the timeline, and the page of a run."""
