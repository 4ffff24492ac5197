"""The rules of reaper.py, each on real processes. What a rule says of orphans holds on Linux."""

import os
import signal
import subprocess
import sys
import tempfile
import time
import unittest

REAPER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "reaper.py")


def alive(pid):
    try:
        with open("/proc/%d/stat" % pid, encoding="utf-8") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


class Reaper(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)
        self.report = os.path.join(self.folder.name, "left")

    def start(self, script):
        reaper = subprocess.Popen(
            [sys.executable, REAPER, self.report, "sh", "-c", script], stdout=subprocess.PIPE, text=True
        )
        self.addCleanup(reaper.wait)
        self.addCleanup(reaper.stdout.close)
        return reaper

    def left(self):
        with open(self.report, encoding="utf-8") as file:
            return file.read().splitlines()

    def test_an_orphan_that_ends_while_the_command_runs_is_buried(self):
        file = os.path.join(self.folder.name, "pid")
        orphan = "(sh -c 'echo $$ > %s; exec sleep 0.2' &); sleep 1; test ! -e /proc/$(cat %s)" % (file, file)
        self.assertEqual(self.start(orphan).wait(), 0)
        self.assertEqual(self.left(), [])

    def test_status_is_that_of_the_command(self):
        self.assertEqual(self.start("exit 7").wait(), 7)
        self.assertEqual(self.left(), [])

    def test_death_by_signal_is_128_and_its_number(self):
        self.assertEqual(self.start("kill -KILL $$").wait(), 128 + signal.SIGKILL)

    @unittest.skipUnless(sys.platform == "linux", "orphans are adopted on Linux alone")
    def test_what_outlives_the_command_is_reported_and_killed(self):
        reaper = self.start("setsid sleep 600 & echo $!")
        pid = int(reaper.stdout.readline())
        self.assertEqual(reaper.wait(), 0)
        self.assertEqual(self.left(), ["%d sleep 600" % pid])
        self.assertFalse(alive(pid))

    @unittest.skipUnless(sys.platform == "linux", "orphans are adopted on Linux alone")
    def test_what_ends_by_itself_soon_after_is_no_leak(self):
        self.assertEqual(self.start("setsid sleep 0.5 & exit 0").wait(), 0)
        self.assertEqual(self.left(), [])

    def test_a_signal_to_stop_reaches_the_command_once(self):
        reaper = self.start("trap 'echo stop; trap \"exit 3\" TERM' TERM; echo ready; while :; do sleep 0.1; done")
        self.assertEqual(reaper.stdout.readline(), "ready\n")
        reaper.send_signal(signal.SIGTERM)
        self.assertEqual(reaper.stdout.readline(), "stop\n")
        reaper.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        self.assertIsNone(reaper.poll())
        # Its death tells the command a second time.
        reaper.kill()

    def test_a_command_that_does_not_stop_is_killed(self):
        with open(REAPER, encoding="utf-8") as file:
            quick = file.read().replace("STOP_S = 20", "STOP_S = 1")
        copy = os.path.join(self.folder.name, "reaper.py")
        with open(copy, "w", encoding="utf-8") as file:
            file.write(quick)
        command = ["sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.1; done"]
        reaper = subprocess.Popen([sys.executable, copy, self.report, *command], stdout=subprocess.PIPE, text=True)
        self.addCleanup(reaper.stdout.close)
        self.assertEqual(reaper.stdout.readline(), "ready\n")
        reaper.send_signal(signal.SIGTERM)
        self.assertEqual(reaper.wait(timeout=10), 128 + signal.SIGKILL)

    @unittest.skipUnless(sys.platform == "linux", "the death of a parent is told on Linux alone")
    def test_the_command_is_told_to_stop_when_the_reapers_parent_dies(self):
        script = 'trap "exit 0" TERM; echo $$; while :; do sleep 0.1; done'
        parent = subprocess.Popen(
            ["sh", "-c", '"$@" & wait', "sh", sys.executable, REAPER, self.report, "sh", "-c", script],
            stdout=subprocess.PIPE,
            text=True,
        )
        self.addCleanup(parent.stdout.close)
        pid = int(parent.stdout.readline())
        parent.kill()
        parent.wait()
        deadline = time.monotonic() + 10
        while alive(pid) and time.monotonic() < deadline:
            time.sleep(0.05)
        self.assertFalse(alive(pid))


if __name__ == "__main__":
    unittest.main()
