"""What the package says of the header is held to the header by a C compiler: sizes and places of all structures, values of constants, and every prototype."""
import ctypes
import os
import re
import shutil
import subprocess
import tempfile
import unittest

from nomoat import _library as c

HEADERS = os.environ.get("NOMOAT_INCLUDE") or os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "include")


# What the package leaves to C, without "nm_": a function that is new in the header goes here, or gets a prototype.
NOT_WRAPPED = """
    adapter_combine adapter_diff adapter_export adapter_inspect constraint_allows constraint_mask dataset_describe dataset_open_batches divergence general_text
    grammar_matches kernels_describe kernels_tier mapped_file_at model_merge model_meta model_meta_count model_meta_number model_meta_string model_open_memory
    model_tensor model_tensor_count order_pack order_steps_per_epoch pattern_grammar runner_bytes sampler_bias session_bytes session_fork session_load session_reach
    session_save set_kernels speech_closing stop_met stop_reset thread_background trainer_adapter trainer_checkpoint trainer_describe trainer_plan trainer_rest
    trainer_resume trainer_steps
""".split()


def without_comments():
    with open(os.path.join(HEADERS, "nomoat.h")) as file:
        return re.sub(r"/\*.*?\*/", "", file.read(), flags=re.S)


def told_by_python():
    for name, kind in c.structures.items():
        yield "%s %d" % (name, ctypes.sizeof(kind))
        for field, _ in kind._fields_:
            part = getattr(kind, field)
            yield "%s.%s %d %d" % (name, field, part.offset, part.size)
    for name, value in c.CONSTANTS.items():
        yield "%s %d" % (name, value)
    for name in c.ENUMS + ("sig_atomic_t", "size_t"):
        yield "%s %d" % (name, ctypes.sizeof(c._scalars[name]))


def program():
    """Prints the same; and says each prototype again, which is an error where it differs."""
    yield '#include "nomoat.h"\n#include <stdio.h>'
    yield from (line for line in c.PROTOTYPES.strip().splitlines())
    yield "int main(void)\n{"
    for name, kind in c.structures.items():
        yield 'printf("%s %%zu\\n", sizeof(%s));' % (name, name)
        for field, _ in kind._fields_:
            yield 'printf("%s.%s %%zu %%zu\\n", offsetof(%s, %s), sizeof((%s){0}.%s));' % (name, field, name, field, name, field)
    for name in c.CONSTANTS:
        yield 'printf("%s %%d\\n", (int)%s);' % (name, name)
    for name in c.ENUMS + ("sig_atomic_t", "size_t"):
        yield 'printf("%s %%zu\\n", sizeof(%s));' % (name, name)
    yield "return 0;\n}"


class Layout(unittest.TestCase):
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")

    def compiled(self, lines, folder):
        source = os.path.join(folder, "layout.c")
        with open(source, "w") as file:
            file.write("\n".join(lines) + "\n")
        return subprocess.run([self.compiler, "-I", HEADERS, source, "-o", os.path.join(folder, "layout")], capture_output=True, text=True)

    def setUp(self):
        if not self.compiler or not os.path.exists(os.path.join(HEADERS, "nomoat.h")):
            self.skipTest("no C compiler, or no header")

    def test_everything_is_as_in_the_header(self):
        self.maxDiff = None
        with tempfile.TemporaryDirectory() as folder:
            # Calls are declared, not made: nothing is linked.
            done = self.compiled(program(), folder)
            self.assertEqual(done.stderr, "")
            out = subprocess.run([os.path.join(folder, "layout")], capture_output=True, text=True, check=True).stdout
        self.assertEqual(out.splitlines(), list(told_by_python()))

    def test_a_wrong_prototype_would_be_seen(self):
        with tempfile.TemporaryDirectory() as folder:
            done = self.compiled(['#include "nomoat.h"', c.PROTOTYPES.replace("int32_t id);", "int64_t id);")], folder)
        self.assertIn("conflicting types", done.stderr)

    def test_every_structure_is_whole(self):
        """A field that was added at the end shows in the size, but where padding hides it: so their number is counted, too."""
        text = without_comments()
        for name, kind in c.structures.items():
            body = re.search(r"typedef struct %s \{(.*?)\} %s;" % (name, name), text, re.S).group(1)
            count = sum(len(part.split(",")) for part in body.split(";") if part.strip())
            self.assertEqual(count, len(kind._fields_), name)

    def test_every_function_is_wrapped_or_left_out_on_purpose(self):
        public = re.findall(r"NM_API[^;]*?\bnm_(\w+)\(", without_comments())
        wrapped = re.findall(r"\bnm_(\w+)\(", c.PROTOTYPES)
        self.assertGreater(len(public), 100)
        self.assertEqual(sorted(wrapped + NOT_WRAPPED), sorted(public))


if __name__ == "__main__":
    unittest.main()
