"""What tests share: PostgreSQL binaries of every supported version, throw-away servers, a place for their files.

The one idea: a test asks for a server and gets a real one in half a second, as the operating-system user a server
needs, in a directory nobody else uses; whatever becomes of the test, no process and no file of it stays behind.
"""
