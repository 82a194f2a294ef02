extends Node
## Streams a world of a worldbridge server into `texture`, and sends keys, pointer, gamepad and the
## camera's pose to it.

const Connection = preload("connection.gd")
const Coordinates = preload("core/coordinates.gd")
const Fault = preload("core/fault.gd")
const FrameWarp = preload("frame_warp.gd")
const InputSampler = preload("core/input_sampler.gd")
const Protocol = preload("core/protocol.gd")

const SENT := 4096 # poses of the camera that are remembered until a frame answers them

## The session's state changed: connecting, queued, loading, playing, reconnecting, full, error, idle.
signal state_changed(state: String, detail: String)
## The server admitted this client. `world` is its WorldSpec.
signal welcomed(world: Dictionary)
## A new frame is in `texture`. `header` is the protocol's FrameHeader.
signal frame_shown(header: Dictionary)
## An event of the protocol, such as `seat_warning`, `session_resumed` or `world_reset`.
signal notified(event: String, detail: String)
## Something was refused or failed: the protocol's code, a message, and what to do.
signal failed(code: String, message: String, remedy: String)

## host:port, http://host:port, ws://host:port, or tcp://host:port for the server's --zmq-port.
@export var server := "127.0.0.1:8080"
## Refuse to play any world but this one; empty: whatever the server has.
@export var world := ""
## Empty: the world's first theme.
@export var theme := ""
## Below 0: the server's choice.
@export var world_seed := -1
## The server's secret, if it requires one.
@export var token := ""
## Seconds to try to reach a server that never answered.
@export var connect_timeout := 12.0
@export var autoplay := true
## Wait in the queue if every seat is taken: the state is `queued` until then.
@export var wait_for_seat := false
@export var send_keyboard := true
@export var send_pointer := true
@export var send_gamepad := true
## Its pose goes out with every controller state, for worlds with the conditioning `camera`.
@export var camera: Camera3D
## Where the texture is shown, if anywhere.
@export var texture_rect: TextureRect
## Turn each frame in `texture_rect` to the present `camera` at every refresh. It has an effect where
## the world follows the camera: its conditionings name `camera`.
@export var warp := true
## Ask for depth with every frame; worlds whose WorldSpec says `depth` have it.
@export var want_depth := false
## What the world starts from instead of its theme: up to nine images, oldest first, for example the
## view of the scene's camera. Worlds whose WorldSpec has `max_prompt_frames` take them.
@export var prompt_frames: Array[Image] = []

var texture: ImageTexture
## The frame's depth, or null: RG8, the two bytes of a little-endian number of `depth_scale` metres
## along the camera's axis; 0 is unknown.
var depth_texture: ImageTexture
var depth_scale := 0.0
## The Pose that the frame in `texture` is seen from, in the world's coordinates; empty before the
## first one.
var frame_pose := {}
## The WorldSpec of the server's world; empty before it is known.
var spec := {}
var state := "idle"
## While true the newest frame stays and nothing is sent: the server then holds neutral controls.
var paused := false

var _connection: Connection = null
var _sampler := InputSampler.new()
var _warp: FrameWarp = null
var _sent: Dictionary[int, Transform3D] = {} # of `camera`, by the sequence of their states
var _to_world := Transform3D() # from the scene's coordinates to the world's
var _placed := false # `_to_world` is known
var _shown := 0


func _ready() -> void:
	process_mode = Node.PROCESS_MODE_ALWAYS
	if autoplay:
		play()


func _exit_tree() -> void:
	stop()


func _notification(what: int) -> void:
	if what == NOTIFICATION_APPLICATION_FOCUS_OUT:
		_sampler.release_all()


## Connect and start the world; an earlier session ends.
func play() -> void:
	stop()
	_connection = Connection.new(server, token if token else null, world if world else null,
			"engine" if camera else "player", 1000.0 * connect_timeout, want_depth,
			wait_for_seat)
	_connection.play(theme if theme else null, world_seed if world_seed >= 0 else null,
			_files() if prompt_frames else null)
	_set_state("connecting", "Contacting the server")


## Leave: the seat is free at once, the thread and the socket are gone.
func stop() -> void:
	if _connection == null:
		return
	_connection.stop()
	_connection = null
	_sampler = InputSampler.new()
	_sent.clear()
	_to_world = Transform3D()
	_placed = false
	_set_state("idle", "")


## Restart the world with the present `theme`, `world_seed` and `prompt_frames`.
func reset() -> void:
	if _connection:
		_connection.restart(theme if theme else null, world_seed if world_seed >= 0 else null,
				_files())


## Return frames received and shown, the last round trip in ms and the clock's offset.
func statistics() -> Dictionary:
	var result := _connection.view() if _connection else {}
	result["shown"] = _shown
	return result


## Return where the frame in `texture` is seen from. In the scene's coordinates, if the world follows
## `camera`: a world has an origin of its own, and takes the first camera that is sent as its player's.
func frame_transform() -> Transform3D:
	if frame_pose and follows_camera() and not _placed and camera.is_inside_tree():
		return camera.global_transform.orthonormalized() # until a frame answers a state with a camera
	return _to_world.affine_inverse() * Coordinates.from_pose(frame_pose) if frame_pose \
			else Transform3D()


## Return whether the world follows `camera`.
func follows_camera() -> bool:
	return camera != null and "camera" in spec.get("conditionings", [])


## Give the world a view of the scene, as WorldGuide does. `depth` has a number of `depth_scale` metres
## in the bytes red (low) and green; where it is 0 the world draws. `fresh`: it forgets first what it
## drew before. Both images have the shape of the world's frames.
func observe(color: Image, depth: Image, depth_scale_: float, from: Transform3D, fov_y: float,
		fresh := false) -> void:
	if _connection == null:
		return
	color.convert(Image.FORMAT_RGB8)
	depth.convert(Image.FORMAT_RG8)
	_connection.send(Protocol.observe(Coordinates.to_pose(from, fov_y), color.get_size(),
			color.get_data(), depth.get_data(), depth_scale_, fresh))


## Return the vertical field of view of a camera in degrees.
func vertical_fov(of: Camera3D) -> float:
	if of.keep_aspect != Camera3D.KEEP_WIDTH:
		return of.fov
	var size := of.get_viewport().get_visible_rect().size
	return Coordinates.vertical_fov(of.fov, size.x / size.y)


func _unhandled_input(event: InputEvent) -> void:
	if event is InputEventKey and send_keyboard and not event.is_echo():
		var code := InputSampler.key_code(event)
		if code and event.is_pressed():
			_sampler.press(code, Connection.now())
		elif code:
			_sampler.release(code, Connection.now())
	elif event is InputEventMouseMotion and send_pointer \
			and Input.mouse_mode == Input.MOUSE_MODE_CAPTURED:
		_sampler.move_pointer(event.relative)


func _process(_delta: float) -> void:
	if _connection == null:
		return
	for event: Dictionary in _connection.events():
		_handle(event)
		if _connection == null:  # a signal's receiver called stop()
			return
	if paused:
		return
	_send_input()
	_show()
	_turn()


func _handle(event: Dictionary) -> void:
	match event["event"]:
		"state":
			_set_state(event["state"], event["detail"])
		"welcomed":
			spec = event["welcome"]["world"]
			_sampler.hold_ms = 1000.0 / spec["fps"]
			welcomed.emit(spec)
		"notified":
			notified.emit(event["name"], event["detail"])
		"fault":
			var fault: Fault = event["fault"]
			failed.emit(fault.code, fault.message, fault.remedy)


func _set_state(state_: String, detail: String) -> void:
	state = state_
	state_changed.emit(state, detail)


func _send_input() -> void:
	if state != "playing":
		return
	if send_gamepad:
		_sampler.read_gamepad()
	if camera and camera.is_inside_tree():
		_sampler.camera = Coordinates.to_pose(camera.global_transform, vertical_fov(camera))
	var now := Connection.now()
	if not _sampler.due(now):
		return
	var state_ := _sampler.sample(now)
	if follows_camera():
		_remember(state_["sequence"])
	_connection.send(Protocol.input(_sampler.history()))


func _show() -> void:
	var frame := _connection.frames.take()
	if frame.is_empty():
		return
	texture = _updated(texture, frame["image"])
	depth_texture = _updated(depth_texture, frame["depth"]) if frame["depth"] else null
	depth_scale = frame["depth_scale"]
	if texture_rect:
		texture_rect.texture = texture
	_shown += 1
	var header: Dictionary = frame["header"]
	frame_pose = header["camera"]
	var answered: int = header["input_sequence"]
	if _sent.has(answered):
		_to_world = Coordinates.from_pose(frame_pose) * _sent[answered].affine_inverse()
		_placed = true
	var offset: float = _connection.view()["offset"]
	_connection.send(Protocol.frame_shown(header["frame"], frame["received"], Connection.now(),
			null if is_nan(offset) else offset))
	frame_shown.emit(header)


func _files() -> Array[PackedByteArray]:
	var files: Array[PackedByteArray] = []
	for image in prompt_frames:
		files.append(image.save_png_to_buffer())
	return files


## Return a texture of `image`: the same one, where size and format are as before.
static func _updated(before: ImageTexture, image: Image) -> ImageTexture:
	if before == null or Vector2i(before.get_size()) != image.get_size() \
			or before.get_format() != image.get_format():
		return ImageTexture.create_from_image(image)
	before.update(image)
	return before


func _remember(sequence: int) -> void:
	if camera.is_inside_tree():
		_sent[sequence] = camera.global_transform.orthonormalized()
	_sent.erase(sequence - SENT)


func _turn() -> void:
	var active := warp and follows_camera() and texture and texture_rect and camera.is_inside_tree()
	if active and _warp == null:
		_warp = FrameWarp.new()
		texture_rect.material = _warp.material
	elif not active and _warp:
		_warp = null
		texture_rect.material = null
	if active:
		var size := texture.get_size()
		_warp.aim(frame_transform(), frame_pose["fov_y"], camera.global_transform,
				vertical_fov(camera), size.x / size.y)
