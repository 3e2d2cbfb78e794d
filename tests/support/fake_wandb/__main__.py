"""Start a server: `python -m support.fake_wandb FOLDER OPTIONS`, with options as JSON. It prints its port."""

import json
import sys
from pathlib import Path

from support.fake_wandb.server import serve

server = serve(Path(sys.argv[1]), **json.loads(sys.argv[2] if len(sys.argv) > 2 else "{}"))
print(server.server_port, flush=True)
server.serve_forever()
