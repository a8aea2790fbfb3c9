"""The example of the README, taken from its text: what is printed there is what is tested."""

import re
import subprocess
import sys
from pathlib import Path

_BLOCK = re.compile(r"```(\w*)\n(.*?)```", re.DOTALL)


def blocks(readme):
    """Return ``(language, text)`` of each code block of the README's own-table section."""
    section = readme.split("## Your own table and network")[1].split("\n## ")[0]
    return _BLOCK.findall(section)


def write_example(readme, folder):
    """Write the four files as a reader would; return the shell commands."""
    network, table, declaration, policy, commands = [text for _, text in blocks(readme)]
    (folder / "my_net.py").write_text(network)
    (folder / "people.yaml").write_text(declaration)
    (folder / "policy.yaml").write_text(policy)
    subprocess.run([sys.executable, "-c", table], cwd=folder, check=True)
    return [line for line in commands.splitlines() if line and not line.startswith("source ")]


def shell(folder, command, **options):
    """Run a line of the README with this environment's commands on the path."""
    binaries = Path(sys.executable).parent
    return subprocess.run(
        ["/bin/bash", "-c", f"export PATH={binaries}:$PATH R2U_DATASET=people.yaml; {command}"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
        **options,
    )
