"""``models``: what can be loaded here, and why not the rest."""

import argparse


def add(commands: argparse._SubParsersAction) -> None:
    """Register the command."""
    command = commands.add_parser("models", help="list what can be loaded")
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print the list."""
    from cdam_core import catalogue
    from cdam_core.checkpoints import FOLDER_VARIABLE, local_folder

    folder = local_folder()
    state = "not set" if folder is None else "" if folder.is_dir() else "not a folder"
    titles = {"bundled": "Bundled", "photographs": "Photographs",
              "folder": f"Folder {FOLDER_VARIABLE}", "cache": "Hub's cache"}  # fmt: skip
    notes = {"folder": state}
    entries = catalogue.catalogue()
    for place, title in titles.items():
        here = [entry for entry in entries if entry.place == place]
        print(f"{title}: {notes.get(place) or ('' if here else 'nothing')}".rstrip())
        for entry in here:
            print(f"  {entry.source:30s} {'' if entry.loadable else 'NOT LOADABLE: '}{entry.text}")
    print(f"Hub: {catalogue.hub_status()[1]}")
    print("  timm:<architecture>            any Vision Transformer of timm with a class token")
    print("Files: a checkpoint (.pth, .ckpt, .safetensors) or a model card (.json), by its path")
    return 0
