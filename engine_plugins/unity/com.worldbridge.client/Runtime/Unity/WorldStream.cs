using System;
using UnityEngine;
using UnityEngine.Events;

namespace WorldBridge
{
    /// <summary>
    /// Receive the frames of a worldbridge server as a texture and send it a player's controls. All
    /// network work happens on background threads; each update takes at most the newest frame.
    /// </summary>
    [AddComponentMenu("worldbridge/World Stream")]
    [DisallowMultipleComponent]
    public sealed class WorldStream : MonoBehaviour
    {
        [SerializeField]
        [Tooltip("Address of the server: ws, wss, http or https; tcp with a port for ZeroMQ.")]
        private string server = "ws://127.0.0.1:8080";

        [SerializeField]
        [Tooltip("The server's secret, if it requires one.")]
        private string token = "";

        [SerializeField]
        [Tooltip("The only world to play; empty: the server's.")]
        private string world = "";

        [SerializeField]
        [Tooltip("Theme to start in; empty: the server's first.")]
        private string theme = "";

        [SerializeField]
        [Tooltip("Seed of the world; -1: any.")]
        private int seed = -1;

        [SerializeField]
        [Tooltip("Connect when the component is enabled.")]
        private bool playOnEnable = true;

        [SerializeField]
        [Tooltip("Send this camera's pose, for worlds with the conditioning `camera`.")]
        private Camera sourceCamera;

        [SerializeField]
        [Tooltip("Ask for depth with every frame; worlds that have it send it.")]
        private bool wantDepth;

        [SerializeField]
        [Tooltip("Wait in the queue if every seat is taken.")]
        private bool waitForSeat;

        [SerializeField]
        [Tooltip("Over ZeroMQ, receive JPEG images instead of pixels: for slow networks.")]
        private bool compress;

        [SerializeField]
        private UnityEvent textureChanged = new UnityEvent();

        [SerializeField]
        private UnityEvent frameShown = new UnityEvent();

        [SerializeField]
        private UnityEvent<SessionState> stateChanged = new UnityEvent<SessionState>();

        [SerializeField]
        private UnityEvent<ProtocolError> failed = new UnityEvent<ProtocolError>();

        [SerializeField]
        private UnityEvent<string, string> notified = new UnityEvent<string, string>();

        private WorldClient client;
        private Pose frameCamera = Pose.Identity;
        private Texture2D texture;
        private Texture video;
        private Texture2D depthTexture;
        private byte[] depth = Array.Empty<byte>();
        private byte[] pixels = Array.Empty<byte>();
        private SessionState state;
        private ProtocolError reported;
        private bool paused;
        private bool badFrame;
#if !UNITY_6000_0_OR_NEWER
        private byte[] image = Array.Empty<byte>();
#endif

        /// <summary>Get the newest frame; null before the first. It is one texture for all frames.</summary>
        public Texture Texture => Video && video != null ? video : texture;

        /// <summary>Get or set whether frames may come as video; <c>WorldStreamVideo</c> sets it.</summary>
        public bool Video { get; set; }

        /// <summary>Show this texture from now on: the video of <c>WorldStreamVideo</c>.</summary>
        public void ShowVideo(Texture given)
        {
            video = given;
            textureChanged.Invoke();
        }

        /// <summary>
        /// Get the depth of the frame in <see cref="Texture"/>, or null before the first: R16, of
        /// which a step is <see cref="DepthScale"/> metres along the camera's axis and 0 is unknown.
        /// Its first row is the upper one: sample it at 1 - v.
        /// </summary>
        public Texture2D DepthTexture => depthTexture;

        /// <summary>Get metres per step of the depth; 0 while frames come without depth.</summary>
        public float DepthScale { get; private set; }

        /// <summary>Get the event that a new <see cref="Texture"/> object was made.</summary>
        public UnityEvent TextureChanged => textureChanged;

        /// <summary>Get the event that a new frame is in <see cref="Texture"/>.</summary>
        public UnityEvent FrameShown => frameShown;

        /// <summary>Get the event that <see cref="State"/> changed.</summary>
        public UnityEvent<SessionState> StateChanged => stateChanged;

        /// <summary>Get the event of an error, with the protocol's code and a remedy.</summary>
        public UnityEvent<ProtocolError> Failed => failed;

        /// <summary>Get the event that the server reports something by name, such as <c>seat_warning</c>.</summary>
        public UnityEvent<string, string> Notified => notified;

        /// <summary>
        /// Get or set whether the newest frame stays and all controls are released. The seat is kept.
        /// </summary>
        public bool Paused
        {
            get => paused;
            set
            {
                paused = value;
                if (paused) client?.ReleaseAll();
            }
        }

        /// <summary>Get or set the camera whose pose is sent. It counts from the next <see cref="Play"/>.</summary>
        public Camera SourceCamera
        {
            get => sourceCamera;
            set => sourceCamera = value;
        }

        /// <summary>Get or set whether depth is asked for. It counts from the next <see cref="Play"/>.</summary>
        public bool WantDepth
        {
            get => wantDepth;
            set => wantDepth = value;
        }

        /// <summary>Get or set the theme; empty: the server's first. It counts from the next start.</summary>
        public string Theme
        {
            get => theme;
            set => theme = value;
        }

        /// <summary>Get or set the seed; -1: any. It counts from the next start.</summary>
        public int Seed
        {
            get => seed;
            set => seed = value;
        }

        /// <summary>Get or set whether the component plays as soon as it is enabled.</summary>
        public bool PlayOnEnable
        {
            get => playOnEnable;
            set => playOnEnable = value;
        }

        /// <summary>Get the header of the frame in <see cref="Texture"/>.</summary>
        public FrameHeader Header { get; private set; }

        /// <summary>Get the number of frames shown.</summary>
        public long FramesShown { get; private set; }

        /// <summary>Get the client; null while the component is disabled or idle.</summary>
        public WorldClient Client => client;

        /// <summary>Get the session's state.</summary>
        public SessionState State => client == null ? SessionState.Idle : client.State;

        /// <summary>Get or set the server's address. It counts from the next <see cref="Play"/>.</summary>
        public string Server
        {
            get => server;
            set => server = value;
        }

        /// <summary>
        /// Connect and start a world. Prompt frames are PNG or JPEG files, oldest first, such as
        /// <see cref="SceneImage.Png"/> takes; null: as the server is set up.
        /// </summary>
        public void Play(byte[][] promptFrames = null)
        {
            Stop();
            paused = false;
            var hello = new Hello
            {
                Client = "unity",
                Role = sourceCamera == null ? "player" : "engine",
                Token = string.IsNullOrEmpty(token) ? null : token,
                World = string.IsNullOrEmpty(world) ? null : world,
                Codecs = SendsPixels ? new[] { "bgra" } : Video ? new[] { "vp8", "jpeg" } : new[] { "jpeg" },
                Depth = wantDepth,
                Wait = waitForSeat,
            };
            if (Video) hello.Transports = new[] { "webrtc", "websocket" };
            try
            {
                client = new WorldClient(server, hello);
            }
            catch (ArgumentException error)
            {
                Fail("bad_address", "The server's address is not valid", error.Message, server);
                return;
            }
            client.Play(string.IsNullOrEmpty(theme) ? null : theme, seed, promptFrames);
        }

        /// <summary>Start the world again, with the present theme and seed.</summary>
        public void Restart(byte[][] promptFrames = null) =>
            client?.Restart(string.IsNullOrEmpty(theme) ? null : theme, seed, promptFrames);

        /// <summary>Leave the world. The texture keeps the last frame.</summary>
        public void Stop()
        {
            client?.Dispose();
            client = null;
            ShowState();
        }

        /// <summary>
        /// Return the pose that the newest frame was seen from, in Unity's coordinates: in the scene, if
        /// the world follows <see cref="SourceCamera"/>, and from the world's own origin otherwise.
        /// </summary>
        public void GetCameraPose(out Vector3 position, out Quaternion rotation)
        {
            Pose pose = Coordinates.Flip(frameCamera);
            position = new Vector3((float)pose.X, (float)pose.Y, (float)pose.Z);
            rotation = new Quaternion(
                (float)pose.QX,
                (float)pose.QY,
                (float)pose.QZ,
                (float)pose.QW
            );
        }

        private void OnEnable()
        {
            if (playOnEnable) Play();
        }

        private void OnDisable() => Stop();

        private void OnDestroy()
        {
            if (texture != null) Destroy(texture);
            if (depthTexture != null) Destroy(depthTexture);
        }

        private void OnApplicationFocus(bool focused)
        {
            if (!focused) client?.ReleaseAll();
        }

        private void Update()
        {
            if (client == null) return;
            if (sourceCamera != null) client.SetCamera(PoseOf(sourceCamera));
            if (!paused && client.TryTakeFrame(out Frame frame)) Show(frame);
            ShowState(); // last: what it calls may stop the stream
        }

        private void Show(Frame frame)
        {
            Texture2D before = texture;
            if (frame.ImageLength >= 0 && !(frame.Codec == "bgra" ? LoadPixels(frame) : LoadJpeg(frame)))
            {
                if (!badFrame)
                    Fail("bad_message", "A frame cannot be decoded", "a JPEG image or pixels", frame.Codec);
                badFrame = true; // once, not with every frame
                return;
            }
            badFrame = false;
            Header = frame.Header;
            frameCamera = client.SceneCamera(frame.Header);
            LoadDepth(frame);
            FramesShown++;
            client.FrameShown(frame);
            if (texture != before) textureChanged.Invoke();
            frameShown.Invoke();
        }

        // States, errors and events are reported here, on the main thread.
        private void ShowState()
        {
            while (client != null && client.TryTakeEvent(out string name, out string detail))
                notified.Invoke(name, detail);
            ProtocolError error = client?.Error;
            SessionState now = State;
            if (now != state)
            {
                state = now;
                stateChanged.Invoke(now);
            }
            if (error == reported) return;
            reported = error;
            if (error != null) failed.Invoke(error);
        }

        /// <summary>Report an error of the client's own by <see cref="Failed"/>.</summary>
        public void Fail(string code, string message, string expected, string got) =>
            failed.Invoke(
                new ProtocolError(code, message, expected, got, "See the component's settings.", "", false)
            );

        private bool SendsPixels => server.StartsWith("tcp:") && !compress;

        private static Texture2D Made(int width, int height, TextureFormat format) =>
            new Texture2D(width, height, format, false)
            {
                name = "worldbridge frame",
                wrapMode = TextureWrapMode.Clamp,
            };

        private bool LoadPixels(Frame frame)
        {
            int width = frame.Header.Width, height = frame.Header.Height, row = 4 * width;
            if (frame.ImageLength != row * height || row == 0) return false;
            if (pixels.Length != frame.ImageLength || texture.width != width)
            {
                if (texture != null) Destroy(texture);
                texture = Made(width, height, TextureFormat.BGRA32);
                pixels = new byte[frame.ImageLength];
            }
            for (int y = 0; y < height; y++) // a texture begins with its lowest row
                Buffer.BlockCopy(frame.Image, y * row, pixels, (height - 1 - y) * row, row);
            texture.LoadRawTextureData(pixels);
            texture.Apply(false);
            return true;
        }

        private bool LoadJpeg(Frame frame)
        {
            if (texture == null) texture = Made(2, 2, TextureFormat.RGB24);
            pixels = Array.Empty<byte>();
#if UNITY_6000_0_OR_NEWER
            var data = new ReadOnlySpan<byte>(frame.Image, 0, frame.ImageLength);
            return texture.LoadImage(data, false);
#else
            // JPEG decoders stop at the end marker, so a buffer that is too long serves every length.
            if (image.Length < frame.ImageLength) image = new byte[2 * frame.ImageLength];
            Buffer.BlockCopy(frame.Image, 0, image, 0, frame.ImageLength);
            Array.Clear(image, frame.ImageLength, image.Length - frame.ImageLength);
            return texture.LoadImage(image, false);
#endif
        }

        private void LoadDepth(Frame frame)
        {
            DepthScale = 0;
            if (texture == null) return;
            int width = texture.width, height = texture.height;
            if (frame.DepthLength != 2 * width * height) return;
            if (depthTexture == null || depthTexture.width != width || depthTexture.height != height)
            {
                if (depthTexture != null) Destroy(depthTexture);
                depthTexture = new Texture2D(width, height, TextureFormat.R16, false, true)
                {
                    name = "worldbridge depth",
                    wrapMode = TextureWrapMode.Clamp,
                    filterMode = FilterMode.Point,
                };
                depth = new byte[frame.DepthLength];
            }
            Buffer.BlockCopy(frame.Depth, 0, depth, 0, depth.Length);
            depthTexture.LoadRawTextureData(depth);
            depthTexture.Apply(false);
            DepthScale = (float)frame.DepthScale;
        }

        /// <summary>Return a camera's pose in the protocol's coordinates.</summary>
        public static Pose PoseOf(Camera camera)
        {
            Vector3 p = camera.transform.position;
            Quaternion q = camera.transform.rotation;
            return Coordinates.Flip(
                new Pose
                {
                    X = p.x,
                    Y = p.y,
                    Z = p.z,
                    QX = q.x,
                    QY = q.y,
                    QZ = q.z,
                    QW = q.w,
                    FovY = Math.Max(1, Math.Min(179, camera.fieldOfView)),
                }
            );
        }
    }
}
