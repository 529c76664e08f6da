"""The manifests of deploy/kubernetes, rendered by the real Kustomize, and what schemas have against an object."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import yaml
from referencing import Registry, Resource

Manifest = dict[str, Any]

KUBERNETES = Path(__file__).parents[3] / "deploy" / "kubernetes"
OLDEST = (1, 30)
_SCHEMAS = Path(kubernetes_validate.__file__).parent / "kubernetes-json-schema"
_CUSTOM = Path(__file__).with_name("custom_resources.yaml")


def versions() -> list[str]:
    """Those of Kubernetes, from the oldest that is supported on, that there are schemas of."""
    found = {tuple(map(int, name.split(".")[:2])) for name in kubernetes_validate.utils.all_versions()}
    return [f"{major}.{minor}" for major, minor in sorted(found) if (major, minor) >= OLDEST]


def render(folder: Path) -> list[Manifest]:
    """What `kubectl apply -k FOLDER` sends.

    Raises:
        AssertionError: kubectl refuses; has its words.
    """
    # That of the environment first: all machines then render by the same version.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    kubectl = shutil.which("kubectl", path=path)
    assert kubectl is not None, "no kubectl beside Python nor on the PATH: make setup installs it"
    ran = subprocess.run([kubectl, "kustomize", str(folder)], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    return list(yaml.safe_load_all(ran.stdout))


@cache
def rendered(name: str) -> list[Manifest]:
    """A folder of deploy/kubernetes. To be read only: it is rendered once."""
    return render(KUBERNETES / name)


def compose(folder: Path, resource: str, components: Sequence[str]) -> list[Manifest]:
    """What an overlay of one's own makes of a folder of deploy/kubernetes and some of its components.

    Args:
        folder: an empty one, on the same disk: Kustomize takes no absolute paths.
        resource: such as "overlays/gpu".
        components: their names.
    """
    here = os.path.relpath(KUBERNETES, folder)
    document = {"resources": [f"{here}/{resource}"], "components": [f"{here}/components/{name}" for name in components]}
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(document))
    return render(folder)


def faults(manifest: Manifest, version: str) -> Iterator[str]:
    """What is wrong with an object, by the schemas of a Kubernetes version and ours of custom resources; all strict."""
    schema = _custom().get(f"{manifest['apiVersion']} {manifest['kind']}")
    try:
        if schema is None:
            kubernetes_validate.validate(manifest, version, strict=True)
        else:
            metadata = {"$ref": _kubernetes("apimachinery.pkg.apis.meta.v1.ObjectMeta")}
            schema = {
                **schema,
                "properties": {"apiVersion": {}, "kind": {}, "metadata": metadata, **schema["properties"]},
            }
            jsonschema.Draft202012Validator(schema, registry=_registry(version)).validate(manifest)
    except kubernetes_validate.SchemaNotFoundError as error:
        yield error.message
    except jsonschema.ValidationError as error:  # kubernetes_validate's own is one of these
        yield f"{manifest['kind']} {'.'.join(map(str, error.absolute_path))}: {error.message}"


@cache
def _custom() -> Mapping[str, Any]:
    found: dict[str, Any] = yaml.safe_load(_CUSTOM.read_text().replace("kubernetes:", _kubernetes("")))
    return found


def _kubernetes(name: str) -> str:
    """The reference to one of Kubernetes's own definitions."""
    return f"https://kubernetes.io/api/_definitions.json#/$defs/io.k8s.{name}"


@cache
def _registry(version: str) -> Registry[Any]:
    document = json.loads((_SCHEMAS / f"v{version}.0-local-strict" / "_definitions.json").read_text())
    return Resource.from_contents(document) @ Registry()


def pods(manifests: Sequence[Manifest]) -> dict[str, Manifest]:
    """Specifications of the pods by the name of what makes them; of KServe as its controller puts them together."""
    found = {
        item["metadata"]["name"]: item["spec"]["template"]["spec"] for item in manifests if item["kind"] == "Deployment"
    }
    served = {
        item["kind"]: item["spec"] for item in manifests if item["kind"] in ("ServingRuntime", "InferenceService")
    }
    if served:
        found["kserve"] = {**served["InferenceService"]["predictor"], **served["ServingRuntime"]}
    return found


def of_kind(manifests: Sequence[Manifest], kind: str) -> dict[str, Manifest]:
    """Objects of a kind by name."""
    return {item["metadata"]["name"]: item for item in manifests if item["kind"] == kind}
