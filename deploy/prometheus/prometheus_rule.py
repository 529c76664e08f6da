"""Write the rules and alerts of this folder as a PrometheusRule of Prometheus Operator: what `make rules` does."""

import sys
from pathlib import Path

from rrrnet.files import write_atomically

HERE = Path(__file__).parent
TARGET = HERE.parent / "kubernetes" / "components" / "monitoring" / "prometheusrule.yaml"
_HEAD = """\
# Written by `make rules` from deploy/prometheus/rules.yml and alerts.yml: edit those.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: rrr
  labels: {app: rrr}
spec:
  groups:
"""


def manifest() -> str:
    """The object: the groups of both files, as they stand there, with their comments."""
    bodies = [(HERE / name).read_text().partition("\ngroups:\n")[2] for name in ("rules.yml", "alerts.yml")]
    lines = "".join(bodies).splitlines()
    return _HEAD + "".join(f"  {line}".rstrip() + "\n" for line in lines)


def main() -> int:
    """Write the file; the exit code."""
    write_atomically(TARGET, manifest().encode())
    print(TARGET.relative_to(HERE.parents[1]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
