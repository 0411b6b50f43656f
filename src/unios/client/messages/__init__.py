"""Messages: ports for programs, blocking and asyncio. docs/messages.md."""
