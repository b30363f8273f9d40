"""Single messages: read from the topics page by page, searched for, followed to what became of them, and tried out.
Nothing here writes."""
