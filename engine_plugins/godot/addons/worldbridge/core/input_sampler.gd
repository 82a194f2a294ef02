extends RefCounted
## A player's devices as a sequence of controller states. It knows no clock and no engine node: the
## caller reports keys, pointer movement and sticks, and samples 60 times per second.

const Protocol = preload("protocol.gd")

## Button i of the W3C standard gamepad is this JoyButton; -1: a trigger.
const JOY_BUTTONS: Array[int] = [0, 1, 2, 3, 9, 10, -1, -1, 4, 6, 7, 8, 11, 12, 13, 14, 5]
## The triggers' buttons of the W3C standard gamepad, and their JoyAxis.
const JOY_TRIGGERS: Dictionary[int, int] = {6: JOY_AXIS_TRIGGER_LEFT, 7: JOY_AXIS_TRIGGER_RIGHT}
const TRIGGER_PRESSED := 0.5
const SAMPLE_MS := 1000.0 / 60.0  # interval while nothing changes; a change is sent at once
const MIN_GAP_MS := 6.0  # a 1000 Hz mouse must not send 1000 messages per second
const KEYS: Dictionary[int, String] = {
	KEY_UP: "ArrowUp", KEY_DOWN: "ArrowDown", KEY_LEFT: "ArrowLeft", KEY_RIGHT: "ArrowRight",
	KEY_SPACE: "Space", KEY_ENTER: "Enter", KEY_TAB: "Tab", KEY_BACKSPACE: "Backspace",
	KEY_ESCAPE: "Escape", KEY_SHIFT: "ShiftLeft", KEY_CTRL: "ControlLeft", KEY_ALT: "AltLeft",
	KEY_COMMA: "Comma", KEY_PERIOD: "Period", KEY_SLASH: "Slash", KEY_SEMICOLON: "Semicolon",
	KEY_MINUS: "Minus", KEY_EQUAL: "Equal", KEY_BRACKETLEFT: "BracketLeft",
	KEY_BRACKETRIGHT: "BracketRight", KEY_QUOTELEFT: "Backquote", KEY_APOSTROPHE: "Quote",
}

## The Pose of a client that moves the camera itself, or null.
var camera: Variant = null
## Shortest duration of a key press in ms: one step of the world, so that no step misses a tap.
var hold_ms := 0.0

var _keys: Dictionary[String, float] = {}  # code -> time of the press
var _releases: Dictionary[String, float] = {}  # code -> when a short tap ends
var _pointer: Array[float] = [0.0, 0.0]
var _axes: Array[float] = [0.0, 0.0, 0.0, 0.0]
var _buttons := 0
var _history: Array[Dictionary] = []
var _next := 0
var _changed := false
var _last_due := -INF
var _next_due := -INF


## Return the `KeyboardEvent.code` of a physical key, or "" if the protocol's worlds use none.
static func key_code(event: InputEventKey) -> String:
	var key := event.physical_keycode
	if key >= KEY_A and key <= KEY_Z:
		return "Key" + char(key)
	if key >= KEY_0 and key <= KEY_9:
		return "Digit" + char(key)
	var code: String = KEYS.get(key, "")
	if event.location == KEY_LOCATION_RIGHT and key in [KEY_SHIFT, KEY_CTRL, KEY_ALT]:
		return code.replace("Left", "Right")
	return code


## Return the bits of pressed buttons, numbered as on the W3C standard gamepad.
static func button_bits(pressed: Array) -> int:
	var bits := 0
	for button: int in pressed:
		bits |= 1 << button
	return bits


func press(code: String, now: float) -> void:
	_releases.erase(code)
	if not _keys.has(code) and _keys.size() < Protocol.MAX_KEYS:
		_keys[code] = now
		_changed = true


func release(code: String, now: float) -> void:
	if not _keys.has(code):
		return
	if now >= _keys[code] + hold_ms:
		_keys.erase(code)
		_changed = true
	else:
		_releases[code] = _keys[code] + hold_ms


## Add pointer movement in pixels, +x right, +y down.
func move_pointer(movement: Vector2) -> void:
	_pointer[0] += movement.x
	_pointer[1] += movement.y
	_changed = true


## Set the sticks (left X, left Y, right X, right Y; down is +1) and the button bits.
func set_gamepad(axes: Array, buttons: int) -> void:
	for i in 4:
		var value := clampf(axes[i], -1.0, 1.0)
		_changed = _changed or value != _axes[i]
		_axes[i] = value
	_changed = _changed or buttons != _buttons
	_buttons = buttons


## Read the first connected gamepad; without one it is neutral.
func read_gamepad() -> void:
	var pads := Input.get_connected_joypads()
	if pads.is_empty():
		set_gamepad([0.0, 0.0, 0.0, 0.0], 0)
		return
	var pad := pads[0]
	var pressed := []
	for i in JOY_BUTTONS.size():
		if JOY_BUTTONS[i] >= 0 and Input.is_joy_button_pressed(pad, JOY_BUTTONS[i] as JoyButton):
			pressed.append(i)
	for i: int in JOY_TRIGGERS:
		if Input.get_joy_axis(pad, JOY_TRIGGERS[i] as JoyAxis) > TRIGGER_PRESSED:
			pressed.append(i)
	var axes := []
	for axis in 4:
		axes.append(Input.get_joy_axis(pad, axis as JoyAxis))
	set_gamepad(axes, button_bits(pressed))


## Release all keys, sticks and buttons. Pointer totals are kept.
func release_all() -> void:
	_keys.clear()
	_releases.clear()
	set_gamepad([0.0, 0.0, 0.0, 0.0], 0)


## Return whether the next state is due: soon after a change, at 60 Hz otherwise. Counting from when
## it was due, not from now, keeps 60 Hz on average with a coarse main loop.
func due(now: float) -> bool:
	var regular := now >= _next_due
	if not regular and not (_changed and now - _last_due >= MIN_GAP_MS):
		return false
	var late := regular and now - _next_due < SAMPLE_MS
	_next_due = (_next_due if late else now) + SAMPLE_MS
	_last_due = now
	_changed = false
	return true


## Take the next controller state and remember it for `history`.
func sample(now: float) -> Dictionary:
	for code: String in _releases.keys():
		if now >= _releases[code]:
			_releases.erase(code)
			_keys.erase(code)
	var state := {"sequence": _next, "time": now, "axes": _axes.duplicate(), "buttons": _buttons,
		"keys": _keys.keys(), "pointer": _pointer.duplicate(), "camera": camera}
	_next += 1
	_history.push_front(state)
	if _history.size() > Protocol.STATES_PER_INPUT:
		_history.pop_back()
	return state


## Return the last states, newest first: every `input` carries them.
func history() -> Array[Dictionary]:
	return _history.duplicate()
