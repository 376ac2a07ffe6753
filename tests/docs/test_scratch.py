import os
from pathlib import Path
from tests.docs.guide import World, read_commands, find_fault
from tests.docs.test_guide import world as world

def test_show(world):
    for command, status, output in world.run(read_commands(Path(os.environ["PAGE"]))):
        f = find_fault(world, command, status, output)
        print(f"--- {command.line} [{status}] {'FAULT '+f if f else ''}\n$ {command.text}\n{output.strip()}")
