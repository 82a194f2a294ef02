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
        [Tooltip("Address of the server: ws, wss, http or https.")]
        private string server = "ws://127.0.0.1:8000";

        [SerializeField]
        [Tooltip("The server's secret, if it requires one.")]
        private string token = "";

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
        private UnityEvent textureChanged = new UnityEvent();

        private WorldClient client;
        private Texture2D texture;
        private Texture2D depthTexture;
        private byte[] depth = Array.Empty<byte>();
#if !UNITY_6000_0_OR_NEWER
        private byte[] image = Array.Empty<byte>();
#endif

        /// <summary>Get the newest frame; null before the first. It is one texture for all frames.</summary>
        public Texture2D Texture => texture;

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
        /// Connect and start a world. Prompt frames are PNG or JPEG files, oldest first; null: as the
        /// server is set up. Raises <see cref="ArgumentException"/> for a bad address.
        /// </summary>
        public void Play(byte[][] promptFrames = null)
        {
            Stop();
            var hello = new Hello
            {
                Client = "unity",
                Role = sourceCamera == null ? "player" : "engine",
                Token = string.IsNullOrEmpty(token) ? null : token,
                Depth = wantDepth,
                Wait = waitForSeat,
            };
            client = new WorldClient(server, hello);
            client.Play(string.IsNullOrEmpty(theme) ? null : theme, seed, promptFrames);
        }

        /// <summary>Leave the world. The texture keeps the last frame.</summary>
        public void Stop()
        {
            client?.Dispose();
            client = null;
        }

        /// <summary>
        /// Return the pose that the newest frame was seen from, in Unity's coordinates.
        /// </summary>
        public void GetCameraPose(out Vector3 position, out Quaternion rotation)
        {
            Pose pose = Coordinates.Flip(Header.Camera);
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
            if (sourceCamera != null) SendCamera();
            if (client.TryTakeFrame(out Frame frame) && Show(frame)) client.FrameShown(frame);
        }

        private bool Show(Frame frame)
        {
            bool created = texture == null;
            if (created)
            {
                texture = new Texture2D(2, 2, TextureFormat.RGB24, false)
                {
                    name = "worldbridge frame",
                    wrapMode = TextureWrapMode.Clamp,
                };
            }
            if (!Load(frame))
            {
                Debug.LogWarning($"worldbridge: frame {frame.Header.Frame} is not a JPEG", this);
                return false;
            }
            Header = frame.Header;
            LoadDepth(frame);
            FramesShown++;
            if (created) textureChanged.Invoke();
            return true;
        }

        private bool Load(Frame frame)
        {
#if UNITY_6000_0_OR_NEWER
            var data = new ReadOnlySpan<byte>(frame.Image, 0, frame.ImageLength);
            return texture.LoadImage(data, false);
#else
            if (image.Length != frame.ImageLength) image = new byte[frame.ImageLength];
            Buffer.BlockCopy(frame.Image, 0, image, 0, frame.ImageLength);
            return texture.LoadImage(image, false);
#endif
        }

        private void LoadDepth(Frame frame)
        {
            int width = texture.width, height = texture.height;
            DepthScale = 0;
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

        private void SendCamera()
        {
            Vector3 p = sourceCamera.transform.position;
            Quaternion q = sourceCamera.transform.rotation;
            var pose = new Pose
            {
                X = p.x,
                Y = p.y,
                Z = p.z,
                QX = q.x,
                QY = q.y,
                QZ = q.z,
                QW = q.w,
                FovY = Math.Max(1, Math.Min(179, sourceCamera.fieldOfView)),
            };
            client.SetCamera(Coordinates.Flip(pose));
        }
    }
}
