"""stub"""
from pathlib import Path
from cluster.run_folder import RunFolder
def write_report(run: RunFolder) -> Path:
    return run.path
