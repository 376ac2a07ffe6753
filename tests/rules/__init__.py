"""The rules of finding changes, one planted mistake for each: without a rule its test fails, and no other one."""
