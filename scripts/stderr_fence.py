"""Makes sure that all that a cell wrote to stderr has arrived: takes a question, gets a line that comes after it.

To a cell that panicked or whose `?` failed the kernel answers "ok". Only stderr tells, and it comes through a pipe that
the kernel may empty after it has called the cell done. So a thread in the process that runs the cells copies lines from a
named pipe to its stderr: what the cell has written there comes before such a line.
"""

import json
import os
import pathlib
import tempfile

# Seconds. The thread answers at once; if it does not, the process that runs the cells has gone.
PATIENCE = 60

THREAD = """\
{{
    let path: String = {path}.into();
    std::thread::spawn(move || {{
        let questions = std::io::BufReader::new(std::fs::File::open(path).unwrap());
        for question in std::io::BufRead::lines(questions).map_while(Result::ok) {{
            eprintln!("{{question}}");
        }}
    }});
}}
"""


class StderrFence:
    def __init__(self):
        self.folder = tempfile.TemporaryDirectory(prefix="stderr-fence-")
        path = pathlib.Path(self.folder.name) / "questions"
        os.mkfifo(path)
        # Open at both ends, so that neither side waits for the other.
        self.pipe = os.open(path, os.O_RDWR)
        self.number = 0
        # What the kernel must run first.
        self.code = THREAD.format(path=json.dumps(str(path), ensure_ascii=False))

    def ask(self):
        """Asks for a line that no cell has written."""
        self.number += 1
        os.write(self.pipe, f"{self._line()}\n".encode())

    def is_answer(self, message):
        """Whether a message of the kernel is the line asked for."""
        content = message["content"]
        return content.get("name") == "stderr" and content["text"].strip() == self._line()

    def _line(self):
        return f"{self.folder.name} {self.number}"

    def close(self):
        os.close(self.pipe)
        self.folder.cleanup()

