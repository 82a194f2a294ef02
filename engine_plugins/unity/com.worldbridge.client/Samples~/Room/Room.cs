using UnityEngine;

namespace WorldBridge.Samples
{
    /// <summary>
    /// A grey room of the scene's own whose door opens into a street that the world draws, and a ball
    /// that rolls out of the door and behind the walls. Put it on an empty object in an empty scene with
    /// a camera and start <c>worldbridge serve --world guided</c>. It builds everything else.
    /// </summary>
    public sealed class Room : MonoBehaviour
    {
        private const int WorldLayer = 1; // TransparentFX: what the guide sends is the scene without it

        // Center and size in metres; the door is in the wall ahead.
        private static readonly float[,] Boxes =
        {
            { 0, -0.05f, 0.6f, 5, 0.1f, 5.8f }, // floor, and a step outside
            { 0, 2.85f, 0.5f, 5, 0.1f, 5 },
            { -2.5f, 1.4f, 0.5f, 0.1f, 2.8f, 5 },
            { 2.5f, 1.4f, 0.5f, 0.1f, 2.8f, 5 },
            { 0, 1.4f, -2, 5, 2.8f, 0.1f },
            { -1.65f, 1.4f, 3, 1.7f, 2.8f, 0.2f }, // beside the door and above it
            { 1.65f, 1.4f, 3, 1.7f, 2.8f, 0.2f },
            { 0, 2.5f, 3, 1.6f, 0.6f, 0.2f },
            { -1.7f, 0.4f, 1.6f, 0.8f, 0.8f, 0.8f }, // a table
        };

        [SerializeField]
        [Tooltip("Address of the server.")]
        private string server = "ws://127.0.0.1:8080";

        [SerializeField]
        [Tooltip("Theme of the street; empty: the server's first.")]
        private string theme = "";

        [SerializeField]
        [Tooltip("The player's camera; empty: the main camera.")]
        private Camera viewer;

        private WorldStream stream;
        private WorldGuide guide;
        private Transform ball;

        private void Start()
        {
            if (viewer == null) viewer = Camera.main;
            viewer.transform.position = new Vector3(0, 1.6f, 0);
            for (int i = 0; i < Boxes.GetLength(0); i++)
            {
                Transform box = GameObject.CreatePrimitive(PrimitiveType.Cube).transform;
                box.position = new Vector3(Boxes[i, 0], Boxes[i, 1], Boxes[i, 2]);
                box.localScale = new Vector3(Boxes[i, 3], Boxes[i, 4], Boxes[i, 5]);
            }
            ball = GameObject.CreatePrimitive(PrimitiveType.Sphere).transform;

            var holder = new GameObject("stream");
            holder.SetActive(false); // it plays as soon as it is active
            stream = holder.AddComponent<WorldStream>();
            stream.Server = server;
            stream.Theme = theme;
            stream.SourceCamera = viewer;
            stream.WantDepth = true;
            stream.StateChanged.AddListener(OnStateChanged);
            stream.Failed.AddListener(OnFailed);

            GameObject quad = GameObject.CreatePrimitive(PrimitiveType.Quad);
            quad.layer = WorldLayer;
            quad.GetComponent<MeshRenderer>().material = new Material(
                Shader.Find("worldbridge/World Backdrop")
            );
            WorldBackdrop backdrop = quad.AddComponent<WorldBackdrop>();
            backdrop.Stream = stream;
            backdrop.Viewer = viewer;
            backdrop.Recede = 0.1f;

            var eye = new GameObject("guide");
            eye.AddComponent<Camera>().cullingMask = ~(1 << WorldLayer);
            guide = eye.AddComponent<WorldGuide>();
            guide.Stream = stream;
            guide.Viewer = viewer;
            holder.SetActive(true);
        }

        private void Update()
        {
            float phase = 0.25f * Time.time;
            ball.position = new Vector3(3 * Mathf.Sin(phase), 0.5f, 5 + 3 * Mathf.Cos(phase));
        }

        private void OnStateChanged(SessionState state)
        {
            if (state == SessionState.Playing && !guide.IsTaken)
                Debug.LogWarning("This world takes no views of the scene: the door shows what it draws.", this);
            if (state == SessionState.Playing && !stream.Client.World.Depth)
                Debug.LogWarning("This world has no depth: the ball stands in front of all of it.", this);
        }

        private void OnFailed(ProtocolError error) =>
            Debug.LogWarning($"{error.Code}: {error.Message}. {error.Remedy}", this);
    }
}
