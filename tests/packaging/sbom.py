"""Writes the bill of materials of a release, in CycloneDX: `python -m tests.packaging.sbom FILE` (make sbom).

It lists what the lock has, with the hashes of the files that the index has of each version; licences and who needs whom
are as what is installed here says. The tools of rnet's developers are not in it.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib.metadata import Distribution
from pathlib import Path

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import ExternalReference, ExternalReferenceType, HashAlgorithm, HashType, XsUri
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output import make_outputter
from cyclonedx.schema import OutputFormat, SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packageurl import PackageURL

from rnet import __version__
from tests.packaging.distributions import PROJECT, children, pulled_in, required
from tests.packaging.licences import licence
from tests.packaging.lock import WITH_EXTRAS, locked


def bill_of_materials(found: Mapping[str, Distribution]) -> str:
    """The CycloneDX document of rnet and those distributions, by normalised name, as JSON.

    Raises AssertionError if its validator refuses it.
    """
    make_licence = LicenseFactory().make_from_string
    parts = {
        name: Component(
            name=name,
            version=version,
            type=ComponentType.LIBRARY,
            bom_ref=f"{name}=={version}",
            purl=PackageURL("pypi", name=name, version=version),
            licenses=[make_licence(said)] if (said := licence(one)) else [],
            external_references=[
                ExternalReference(
                    type=ExternalReferenceType.DISTRIBUTION,
                    url=XsUri(f"https://pypi.org/project/{name}/{version}/#files"),
                    hashes=[
                        HashType(alg=HashAlgorithm.SHA_256, content=file.removeprefix("sha256:")) for file in hashes
                    ],
                )
            ],
        )
        for name, (version, hashes) in locked("release.txt").items()
        if (one := found.get(name)) is not None
    }
    bill = Bom(components=parts.values())
    rnet = Component(
        name="rnet", version=__version__, type=ComponentType.APPLICATION, bom_ref=f"rnet=={__version__}",
        licenses=[make_licence(PROJECT["license"])], description=PROJECT["description"],
    )  # fmt: skip
    bill.metadata.component = rnet
    bill.register_dependency(rnet, [parts[one.name] for one in required(*WITH_EXTRAS) if one.name in parts])
    for name, part in parts.items():
        bill.register_dependency(part, [parts[other] for other in children(found[name]) if other in parts])
    text = make_outputter(bill, OutputFormat.JSON, SchemaVersion.V1_6).output_as_string(indent=1)
    refused = JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)
    assert refused is None, refused
    return text


def main(file: Path) -> None:
    """Writes the file, in a folder that is made if need be."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(bill_of_materials(pulled_in(*WITH_EXTRAS)) + "\n")
    print(f"{file} is written and valid")  # noqa: T201


if __name__ == "__main__":
    main(Path(sys.argv[1]))
