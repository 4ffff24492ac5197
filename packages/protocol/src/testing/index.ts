/** What only tests switch on: crash points and planted bugs. Without their variables both cost an empty call. */
export { CRASH_POINTS, type CrashPoint, crashPoint } from "./crash-point.js";
export { PLANTED_BUGS, type PlantedBug, planted } from "./planted.js";
